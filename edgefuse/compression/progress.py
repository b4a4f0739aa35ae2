"""Names of the stages of a compression."""

FUSING = "Fusing MLPs"
TEACHING = "Teaching them together"
