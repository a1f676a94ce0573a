"""What the machine needs and the algorithms do not: ranks, wide products, kept pages."""
