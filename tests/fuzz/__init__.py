"""Files as nobody writes them: every reader takes each one rightly, or refuses it in one sentence with its name.

python -m tests.fuzz --inputs 20000              # over all kinds of files; what fails is printed with its seed
python -m tests.fuzz --only masks --seed 1234 --inputs 1

`mutations.py` changes good files in structure (values, keys, order) and in bytes; `harness.py` reads one input under a
limit of time and memory and judges what came of it; the other files make good files of a kind and say what is a right
result of reading one. `test_fuzz.py` reads some hundred inputs.
"""
