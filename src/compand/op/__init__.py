"""Operations on codes: search."""
