"""Which experiment fits a folder of data, and why?"""
