"""How do many silos run on one machine or cluster?"""
