"""Where images come from: files in five layouts, or lesions drawn from known factors."""
