"""The parts of Mask2Former (Cheng et al., CVPR 2022): decoders, matching, points, segments."""
