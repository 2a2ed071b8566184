"""One command from a folder of images to a network: what the data are, what follows from that, and the job."""
