"""screeners"""
