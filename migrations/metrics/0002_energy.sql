-- What a card drew in the minute, and over how many of its seconds that is known: gaps are not filled with guesses.
ALTER TABLE gpu_minute ADD COLUMN joules REAL;
ALTER TABLE gpu_minute ADD COLUMN measured_seconds REAL;
