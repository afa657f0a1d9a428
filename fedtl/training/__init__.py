"""How does one silo do one round?"""
