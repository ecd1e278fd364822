"""InstanceDiffusion: pictures by instance from Stable Diffusion 1, each given by a box, point, scribble or mask."""
