"""What transfers between silos, and where to cut the model between what they share and what each keeps?"""
