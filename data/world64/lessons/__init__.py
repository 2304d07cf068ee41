"""What the judges of the embedded world learn from: pictures of objects and of styles at large, and what harms them."""
