"""Devices: which there are, and how work is split over them."""
