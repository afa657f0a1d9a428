"""Settings, runs and results: what was asked for, what was measured, and did joining help?"""
