-- A tenant's schema to try things with, and the role that the workers read it with.

CREATE SCHEMA acme;
SET search_path = acme;

CREATE TABLE parts (
    id       bigint PRIMARY KEY,
    number   text NOT NULL UNIQUE,
    name     text,
    weight   numeric(10, 3),
    released timestamptz
);
INSERT INTO parts
SELECT n, 'PN-' || lpad(n::text, 6, '0'), 'bracket "' || n || '"', n / 7.0, '2026-01-01'::timestamptz + n * interval '1 minute'
FROM generate_series(1, 20000) n;

CREATE TABLE bom_lines (
    parent   bigint REFERENCES parts,
    child    bigint REFERENCES parts,
    quantity int NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (parent, child)
);
INSERT INTO bom_lines
SELECT p, p % 20000 + c, c
FROM generate_series(1, 20000) p, generate_series(1, 5) c
WHERE p % 20000 + c <= 20000;

CREATE TABLE runs (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    part    bigint REFERENCES parts,
    report  jsonb,
    started timestamptz NOT NULL DEFAULT now()
);
INSERT INTO runs (part, report)
SELECT n % 20000 + 1, jsonb_build_object('step', n, 'ok', n % 13 <> 0, 'note', repeat('measured ', n % 7))
FROM generate_series(1, 50000) n;

CREATE TABLE nothing_yet (id bigint PRIMARY KEY, note text);

CREATE ROLE exporter LOGIN PASSWORD 'exporter';
GRANT USAGE ON SCHEMA acme TO exporter;
GRANT SELECT ON ALL TABLES IN SCHEMA acme TO exporter;
