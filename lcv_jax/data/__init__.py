"""Images, videos, size buckets and text on their way in and out."""
