"""What the rows of problem files say: messages, and the media in them."""
