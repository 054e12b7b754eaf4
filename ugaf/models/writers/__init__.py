"""Writers that ask a vision-language model what to edit; `ugaf.wording` has the one that measures."""
