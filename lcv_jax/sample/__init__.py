"""From prompts, images and videos to videos: prepare, denoise, decode."""
