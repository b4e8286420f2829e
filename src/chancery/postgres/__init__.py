"""The stores, over PostgreSQL."""
