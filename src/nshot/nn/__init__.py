"""Operations and elastic layers that the search spaces are made of."""
