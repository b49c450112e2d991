"""Applications of sparse training, each a package of its own built on regrow's public names."""
