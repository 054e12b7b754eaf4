"""Where editors exported by the first version look for their classes: `ugaf.fineedit` has them."""
