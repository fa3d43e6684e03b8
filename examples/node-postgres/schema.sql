CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL, team text NOT NULL);
-- The old team must be in the log, or the list that a user leaves can't be named.
CREATE UNIQUE INDEX users_cdc ON users (id, team);
ALTER TABLE users REPLICA IDENTITY USING INDEX users_cdc;
INSERT INTO users VALUES (1, 'Ada', 'red'), (2, 'Grace', 'red'), (3, 'Edsger', 'blue');
