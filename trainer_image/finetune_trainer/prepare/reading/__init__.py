"""From the files of a source to rows in one shape.

``sources`` fetches, ``files`` parses, ``formats`` recognises and converts, ``messages`` checks
conversations, ``template`` renders prompts, ``control`` refuses control tokens, ``examples`` puts
it together.
"""
