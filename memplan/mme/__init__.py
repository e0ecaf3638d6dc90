"""MME: yes-or-no questions about pictures (arXiv 2306.13394), asked and scored.

`benchmark` reads the official layout, `evaluation` asks every question and keeps the
answers, `scoring` counts them as the official tool does. Who answers is an `Answerer`
(`answering`), made of a checkpoint by `loading`.
"""
