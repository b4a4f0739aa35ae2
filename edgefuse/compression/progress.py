"""Names of the stages of a compression."""

READING = "Reading the text"
FUSING = "Fusing MLPs"
TEACHING = "Teaching them together"
MEASURING = "Matching and measuring them"
