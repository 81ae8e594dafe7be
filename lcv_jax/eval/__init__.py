"""What a checkpoint has learnt: the held-out loss, and in the toy world what a judge says of its samples."""
