"""How labels are said, in English and Chinese: what compositions draw from.

A change of any word raises `composing.VERSION`, because a seed then says another text.
"""

from collections.abc import Mapping

Languages = Mapping[str, Mapping[str, tuple[str, ...]]]

CAMERA: Languages = {
    "en": {
        "static": ("stays still", "does not move"),
        "pan_left": ("pans left", "turns to the left"),
        "pan_right": ("pans right", "turns to the right"),
        "tilt_up": ("tilts up", "turns upward"),
        "tilt_down": ("tilts down", "turns downward"),
        "zoom_in": ("zooms in", "closes in"),
        "zoom_out": ("zooms out", "pulls back"),
        "roll": ("rolls", "rolls about its axis"),
        "shake": ("shakes", "is held by hand and shakes"),
    },
    "zh": {
        "static": ("保持静止", "固定不动"),
        "pan_left": ("向左摇", "向左转动"),
        "pan_right": ("向右摇", "向右转动"),
        "tilt_up": ("向上摇", "向上抬起"),
        "tilt_down": ("向下摇", "向下俯落"),
        "zoom_in": ("推近", "逐渐推近"),
        "zoom_out": ("拉远", "逐渐拉远"),
        "roll": ("旋转", "绕轴旋转"),
        "shake": ("晃动", "手持晃动"),
    },
}
"""What the camera does."""

NAMES: Mapping[str, Languages] = {
    "shot_size": {
        "en": {
            "extreme_close_up": ("extreme close-up",),
            "close_up": ("close-up",),
            "medium_close_up": ("medium close-up",),
            "medium_shot": ("medium shot",),
            "cowboy_shot": ("cowboy shot", "medium full shot"),
            "full_shot": ("full shot",),
            "long_shot": ("long shot", "wide shot"),
            "extreme_long_shot": ("extreme long shot", "extreme wide shot"),
        },
        "zh": {
            "extreme_close_up": ("大特写",),
            "close_up": ("特写",),
            "medium_close_up": ("近景",),
            "medium_shot": ("中景",),
            "cowboy_shot": ("中远景", "七分身景"),
            "full_shot": ("全景", "全身景"),
            "long_shot": ("远景",),
            "extreme_long_shot": ("大远景",),
        },
    },
    "lens": {
        "en": {
            "fisheye": ("fisheye",),
            "wide_angle": ("wide-angle",),
            "standard": ("standard", "normal"),
            "telephoto": ("telephoto", "long"),
            "macro": ("macro",),
        },
        "zh": {
            "fisheye": ("鱼眼",),
            "wide_angle": ("广角",),
            "standard": ("标准",),
            "telephoto": ("长焦", "远摄"),
            "macro": ("微距",),
        },
    },
    "style": {
        "en": {
            "live_action": ("live-action", "realistic"),
            "cinematic": ("cinematic", "film-like"),
            "documentary": ("documentary",),
            "animation_2d": ("2D animation",),
            "animation_3d": ("3D animation",),
            "stop_motion": ("stop-motion",),
            "painting": ("painting", "painted"),
            "video_game": ("video game",),
            "screen_recording": ("screen recording",),
        },
        "zh": {
            "live_action": ("实拍", "写实"),
            "cinematic": ("电影感", "电影"),
            "documentary": ("纪录片",),
            "animation_2d": ("二维动画",),
            "animation_3d": ("三维动画",),
            "stop_motion": ("定格动画",),
            "painting": ("绘画",),
            "video_game": ("电子游戏",),
            "screen_recording": ("屏幕录制",),
        },
    },
    "colour_tone": {
        "en": {
            "warm": ("warm",),
            "cool": ("cool",),
            "neutral": ("neutral",),
            "vivid": ("vivid", "saturated"),
            "muted": ("muted",),
            "pastel": ("pastel",),
            "dark": ("dark",),
            "bright": ("bright",),
            "black_and_white": ("black and white",),
            "sepia": ("sepia",),
        },
        "zh": {
            "warm": ("暖",),
            "cool": ("冷",),
            "neutral": ("中性",),
            "vivid": ("鲜艳",),
            "muted": ("低饱和",),
            "pastel": ("粉彩",),
            "dark": ("暗",),
            "bright": ("明亮",),
            "black_and_white": ("黑白",),
            "sepia": ("棕褐",),
        },
    },
}
"""The values of `cinematography.VALUES`."""

SENTENCES: Languages = {
    "en": {
        "camera": ("The camera {}.", "Camera movement: it {}.", "During the shot, the camera {}."),
        "shot_size": ("Shot size: {}.", "Framing: {}.", "It is framed as {a} {}."),
        "lens": ("Filmed with {a} {} lens.", "Lens: {}.", "The lens is {a} {} one."),
        "style": ("Style: {}.", "The style is {}.", "In {a} {} style."),
        "colour_tone": ("Colour tone: {}.", "The colours are {}.", "The colour tone is {}."),
    },
    "zh": {
        "camera": ("镜头{}。", "运镜方式：镜头{}。", "拍摄过程中，镜头{}。"),
        "shot_size": ("景别为{}。", "景别：{}。", "画面采用{}构图。"),
        "lens": ("使用{}镜头拍摄。", "镜头类型：{}。", "由{}镜头拍摄。"),
        "style": ("{}风格。", "风格：{}。", "画面为{}风格。"),
        "colour_tone": ("{}色调。", "画面为{}色调。", "整体呈现{}色调。"),
    },
}
"""What is said of each part. {a}: a or an, as the word behind it begins."""
