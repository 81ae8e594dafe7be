"""Puts a run of GRPO together from its config: models, prompts, rewards, and the iteration as its step."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.checkpoint import layout
from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import Kind as Schedule
from lcv_jax.flow.schedule import sigmas
from lcv_jax.models import zoo
from lcv_jax.models.lora import init_lora
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.grpo import GroupPolicy, Judged
from lcv_jax.objectives.objective import Tree, Trees
from lcv_jax.objectives.prompts import NEGATIVE
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import SAMPLING, TRAINING
from lcv_jax.rewards.opening import check_prompts, check_videos, open_rewards
from lcv_jax.rewards.protocol import Opened
from lcv_jax.sample.encoders import Encoders
from lcv_jax.sample.rollout import Transition
from lcv_jax.sample.row_decoder import RowDecoder
from lcv_jax.train.build import ADAPTER, make_model, precision_of
from lcv_jax.train.feed import Feed, rows_like, rows_of
from lcv_jax.train.grpo_config import GRPOConfig
from lcv_jax.train.programs import Kind
from lcv_jax.train.prompts import EncodedPrompts, PromptOrder, Prompts, read_prompts
from lcv_jax.train.state import TrainState
from lcv_jax.train.training import Training, assembled, keys
from lcv_jax.train.weights import read_lora, read_model


@dataclasses.dataclass(frozen=True, eq=False)
class Form:
    """The videos of an iteration. name: for people. latents: (T, h, w, C) of one. sigmas: with the final 0."""

    name: str
    latents: tuple[int, int, int, int]
    sigmas: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GRPOTraining(Training):
    """step: one update; an iteration, of which it is a part, is `rounds.Rounds`. encoders: of the checkpoint, without
    weights. prompts: to choose from. encoded: their states, and behind them the negative prompt's. rewards: ready to be
    asked. forms: of videos, one for each of `kinds`."""

    config: GRPOConfig
    objective: GroupPolicy
    encoders: Encoders
    prompts: Sequence[str]
    encoded: EncodedPrompts
    rewards: Sequence[Opened]
    forms: Sequence[Form]

    @classmethod
    def of(cls, config: GRPOConfig) -> "GRPOTraining":
        """Opens prompts, checkpoint and rewards, and checks all that can be without weights. Raises InputError."""
        _check_rank(config)
        placement = MeshPlacement(MeshConfig.parse(config.mesh).make(), TRAINING)
        prompts = read_prompts(config.prompts.source, config.prompts.seed, config.rollout.frames)
        encoders = Encoders.open(config.checkpoint, MeshPlacement(placement.mesh, SAMPLING), config.dtype)
        forms = _forms(config, encoders)
        rewards = open_rewards(config.rewards)
        check_prompts(rewards, prompts)
        _check_videos(config, rewards, placement)
        encoded = EncodedPrompts(encoders, (*prompts, config.prompts.negative), config.prompts.tokens)
        objective = config.objective.of(make_model(config, placement), config.rollout.guidance)
        order = PromptOrder(prompts, config.rollout.prompts, config.prompts.seed, rows_of(placement))
        return cls(
            **assembled(config, objective, *_adapters(config, placement), trained="lora"),
            placement=placement,
            encoders=encoders,
            prompts=prompts,
            encoded=encoded,
            rewards=rewards,
            forms=forms,
            feed=Feed(order, placement, encoded.batch),
            kinds=tuple(_kind(config, form, encoded.like, placement) for form in forms),
            streams=(),
        )

    def start(self) -> TrainState:
        if self.config.init_lora is not None:
            adapters = read_lora(self.config.init_lora, self.config.model, self.abstract.trained)
            return self.created(lambda tree: tree, adapters, donate_argnums=0)
        return self.created(functools.partial(_new, self.config), keys(self.config.seed)[0])

    def given(self) -> Trees:
        """The model in the dtype of computation, and the negative prompt."""
        shapes = zoo.abstract_params(self.config.model, precision_of(self.config))
        where = self.placement.params(self.config.model, shapes)
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, where)
        put = self.placement.put
        # Before the model is read, as the text encoder is gone then.
        negative = self.encoded.rows([len(self.prompts)])
        prompts = {NEGATIVE: TextStates(put(negative.states), put(negative.mask))}
        return Trees(params=read_model(self.config.init, self.config.model, abstract), prompts=prompts)

    @property
    def rows(self) -> jax.sharding.Sharding:
        """Of what all videos of an iteration have on their first axis."""
        rollout = self.config.rollout
        return self.placement.sharding(("batch",), (rollout.prompts * rollout.group,))

    def asked(self) -> Prompts:
        """Shapes of what the feed gives."""
        like, leaf = self.encoded.like, functools.partial(rows_like, self.placement, self.config.rollout.prompts)
        return Prompts(leaf((), jnp.int32), TextStates(leaf(like.shape, like.dtype), leaf(like.shape[:1], jnp.bool_)))

    def decoder(self) -> RowDecoder:
        """With the autoencoder's weights, which are read."""
        params = self.encoders.load(("vae",)).params["vae"]
        return RowDecoder(self.encoders.files["vae"].config, self.encoders.precision, params, self.placement)


def _check_rank(config: GRPOConfig) -> None:
    narrowest = config.model.hidden_size
    if config.lora.rank > narrowest:
        raise InputError(
            f"LoRA, rank={config.lora.rank}: the model's layers are {narrowest} wide: expected at most that, or the "
            "adapters are larger than what they adapt"
        )


def _check_videos(config: GRPOConfig, rewards: Sequence[Opened], placement: MeshPlacement) -> None:
    rollout = config.rollout
    videos = len(rows_of(placement)(rollout.prompts * rollout.group))
    for height, width in rollout.sizes:
        check_videos(rewards, videos, (rollout.frames, height, width), rollout.fps)


def _forms(config: GRPOConfig, encoders: Encoders) -> tuple[Form, ...]:
    """The videos, sizes checked against the models."""
    vae, text = (encoders.files[name].config for name in ("vae", "text_encoder"))
    for name, have, want in (
        ("latents of channels", vae.z_dim, config.model.in_channels),
        ("text states of width", text.d_model, config.model.caption_channels),
    ):
        if have != want:
            raise InputError(
                f"{encoders.folder}: makes {name} {have}, the model takes {want}: take the checkpoint of this model"
            )
    rollout, multiple = config.rollout, vae.spatial_factor * max(config.model.patch_size[1:])
    levels = sigmas(Schedule.BASE, rollout.steps, shift=layout.read_schedule(encoders.folder).shift)
    frames = vae.latent_frames(rollout.frames)
    forms = []
    for height, width in rollout.sizes:
        if height < 1 or width < 1 or height % multiple or width % multiple:
            raise InputError(f"rollout, sizes: {height}x{width}: expected multiples of {multiple}")
        latents = (frames, height // vae.spatial_factor, width // vae.spatial_factor, vae.z_dim)
        name = f"{rollout.prompts} prompts x {rollout.group} videos of {height}x{width}x{rollout.frames}"
        forms.append(Form(name, latents, levels))
    return tuple(forms)


def _kind(config: GRPOConfig, form: Form, text: jax.ShapeDtypeStruct, placement: MeshPlacement) -> Kind:
    """What an update takes of a form."""
    count, devices = config.rollout.prompts * config.rollout.group, placement.batch_multiple
    for name, parts in (("accumulate", config.accumulate), ("rollout.parts", config.rollout.parts)):
        if count % (devices * parts):
            raise InputError(
                f"{form.name}: with {name}={parts} and {devices} devices that share a batch, expected the number of "
                f"videos, {count}, to divide by {devices * parts}; change rollout.prompts or {name}, or take a smaller "
                "mesh"
            )
    leaf = functools.partial(rows_like, placement, count)
    latents, number = leaf(form.latents, jnp.float32), leaf((), jnp.float32)
    states = TextStates(leaf(text.shape, text.dtype), leaf(text.shape[:1], jnp.bool_))
    batch = Judged(Transition(latents, latents, latents, number, number), number, number, states)
    (T, h, w, _), (t, p, q) = form.latents, config.model.patch_size
    return Kind(form.name, batch, count * T // t * (h // p) * (w // q))


def _new(config: GRPOConfig, key: jax.Array) -> Tree:
    """Adapters that change nothing yet."""
    return {ADAPTER: init_lora(config.lora, zoo.abstract_params(config.model, FLOAT32), key)}


def _adapters(config: GRPOConfig, placement: MeshPlacement) -> tuple[Tree, Tree]:
    """Shapes and shardings of what is trained."""
    model = zoo.abstract_params(config.model, FLOAT32)
    shapes = jax.eval_shape(functools.partial(_new, config), jax.random.key(0))
    return shapes, {ADAPTER: placement.lora(config.model, model, shapes[ADAPTER])}
