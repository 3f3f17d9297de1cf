"""The ways to ask: write.py (answer_text.py, note.py), read.py (label_question.py, label_reading.py; readers.py chooses
between chat_reader.py and decisions_reader.py), reason.py; probabilities.py is what they share."""
