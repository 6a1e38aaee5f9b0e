"""The chapters' pictures: each function draws one from numbers that a chapter computed."""
