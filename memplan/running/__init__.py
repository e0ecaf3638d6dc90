"""From a program and a card to a report: started, watched, and picked from."""
