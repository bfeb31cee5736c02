"""What keeps files whole: checksums that they carry, and words for a disk that is full."""
