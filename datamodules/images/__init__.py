"""Reading images: which files are images, their pixels, their orientation, their names as annotations spell them."""
