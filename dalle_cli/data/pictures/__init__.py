"""What picture files hold besides pixels: their colour profile, and which format they are."""
