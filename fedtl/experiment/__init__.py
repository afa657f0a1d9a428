"""What was asked for, what came of it, did joining help?"""
