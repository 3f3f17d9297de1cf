"""How a model is asked, and its answer read as a decision.

What is asked       variant.py (a prompt file), question.py (what is offered about one pipeline), words.py (its words)
Written decisions   write.py, with answer_text.py and note.py
Decisions read      read.py, with label_question.py, label_reading.py, chat_reader.py, decisions_reader.py, readers.py
After a sentence    reason.py
Numbers             probabilities.py, pure
All together        answerer.py (one question, one answer), requests.py (what load tests send), prompt_check.py
The wire            client.py, lean_client.py, transport.py, completion.py, reply.py, memory.py, parameters.py
"""
