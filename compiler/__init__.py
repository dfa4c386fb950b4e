"""The compiler: text -> syntax tree -> graph -> gradient -> kernels -> source.  The folder list is the pipeline."""
