"""What each engine needs in a bundle, a file each."""
