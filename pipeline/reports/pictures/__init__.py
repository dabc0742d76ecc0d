"""Images of a page: cards, sheets of thumbnails, and the data by which its script shows them."""
