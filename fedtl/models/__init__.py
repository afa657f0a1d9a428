"""What is each tensor of a model, and how is a model built?"""
