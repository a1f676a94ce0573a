"""Where images come from: what people have, published sets, or lesions drawn from known factors."""
