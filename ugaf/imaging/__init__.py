"""Tools on pixels: decoding and encoding, boxes, masks and layers, registration, filling holes; no measures."""
