"""Rewards: judges of videos, in this process or on other machines. protocol.py says how they are asked."""
