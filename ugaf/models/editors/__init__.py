"""Editors: from a photograph, an instruction and a target to an edited pair; by algorithm, diffusion or an API."""
