"""What the closed form is made of: the step, its moments, the card, its band."""
