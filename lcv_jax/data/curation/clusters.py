"""Clusters of captions' embeddings, what they are called, and how often their clips are drawn: functions of arrays.

Too many clusters are made at first (k-means in mini-batches, which is fast), and close ones merged afterwards, so that
their number follows the data. N: embeddings, D: their width, K: clusters.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

_BATCH = 4096
_TOLD = 200
"""Captions of a cluster that its name is found in."""
_WORDS = r"(?u)\b[^\W\d_]{2,}\b"


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """labels: (N,) int32, the largest cluster is 0. distances: (N,) float32, of an embedding to its cluster's centre, 1
    less the cosine. nearest: of each cluster the numbers of its embeddings, the closest to the centre first."""

    labels: np.ndarray
    distances: np.ndarray
    nearest: tuple[np.ndarray, ...]


def cluster(embeddings: np.ndarray, count: int, merge: float, seed: int) -> Clusters:
    """Of embeddings (N, D), N at least 1, of which only directions matter; none may be 0.

    count: clusters at first, from 1 to N. merge: clusters become one where their centres are closer than this times the
    distance of their members from them (root mean square), on average over their parts. Deterministic.
    """
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    unit = np.asarray(embeddings, np.float32)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    means = MiniBatchKMeans(count, random_state=seed, batch_size=_BATCH, init_size=max(_BATCH, 3 * count), n_init=1)
    with threadpool_limits(1):  # sums in one order, whatever the machine
        parts = np.unique(means.fit_predict(unit), return_inverse=True)[1]
    labels = _merged(_centres(unit, parts), np.bincount(parts), merge)[parts]
    order = np.argsort(-np.bincount(labels), kind="stable")
    labels = np.argsort(order)[labels].astype(np.int32)
    centres = _centres(unit, labels)
    # A centre is 0 where members point everywhere; no direction is closer to it than another then.
    lengths = np.maximum(np.linalg.norm(centres, axis=1), 1e-12)
    distances = (1 - np.einsum("nd,nd->n", unit, centres[labels]) / lengths[labels]).astype(np.float32)
    members = [np.flatnonzero(labels == number) for number in range(len(order))]
    nearest = tuple(rows[np.argsort(distances[rows], kind="stable")] for rows in members)
    return Clusters(labels, distances, nearest)


def top_terms(captions: Sequence[Sequence[str]], terms: int = 3) -> list[str]:
    """A name of each cluster: what its captions say and others do not, by TF-IDF over clusters. "" where no captions
    have words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    said = [" ".join(texts[:_TOLD]) for texts in captions]
    vectorizer = TfidfVectorizer(token_pattern=_WORDS, stop_words="english", sublinear_tf=True)
    try:
        found = vectorizer.fit_transform(said)
    except ValueError:  # no words but stop words
        return [""] * len(captions)
    words = vectorizer.get_feature_names_out()
    names = []
    for row in found:
        best = sorted(zip(-row.data, words[row.indices], strict=True))[:terms]
        names.append(", ".join(word for _, word in best))
    return names


def balanced(density: np.ndarray, alpha: float, cap: float) -> np.ndarray:
    """Weights (N,) proportional to density (N,) ** -alpha, but none above `cap`, mean 1. cap: at least 1."""
    wanted = np.asarray(density, np.float64) ** -alpha
    capped = np.zeros(len(wanted), bool)
    weights = wanted / wanted.mean() if len(wanted) else wanted
    while (over := (weights > cap) & ~capped).any():
        capped |= over
        left = len(wanted) - cap * capped.sum()
        weights = np.where(capped, cap, wanted * (left / wanted[~capped].sum()) if not capped.all() else cap)
    return weights


def _centres(unit: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Means (K, D) of each cluster's members."""
    sums = np.zeros((int(labels.max()) + 1, unit.shape[1]), np.float64)
    np.add.at(sums, labels, unit)
    return sums / np.bincount(labels)[:, None]


def _merged(centres: np.ndarray, counts: np.ndarray, merge: float) -> np.ndarray:
    """The cluster (K,) of each part, of its members' means (K, D) and numbers (K,).

    Of vectors of length 1 the mean squared distance to their mean is 1 less its squared length. Small parts show less
    of it than there is, and their centres are further apart; both are corrected as for samples drawn at random.
    """
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import pairwise_distances

    if len(centres) == 1 or not merge:
        return np.arange(len(centres))
    within = counts * np.maximum(1 - (centres**2).sum(1), 0)
    usual = within.sum() / max(counts.sum() - len(counts), 1)
    spread = np.where(counts > 1, within / np.maximum(counts - 1, 1), usual)
    noise = spread / counts
    apart = np.maximum(pairwise_distances(centres, metric="sqeuclidean") - noise[:, None] - noise[None], 0)
    distances = np.sqrt(apart / np.maximum((spread[:, None] + spread[None]) / 2, 1e-12))
    np.fill_diagonal(distances, 0)
    grouped = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=merge)
    return grouped.fit_predict(distances)
