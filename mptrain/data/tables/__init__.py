"""Tables: arrays, csv files, and data made from a formula."""
