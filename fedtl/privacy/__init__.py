"""What may a row cost, and where is it written down?"""
