-- A manufacturing tenant that looks like a real one: some forty tables and, at scale 1, over a million rows.
-- Every kind of relation that a snapshot meets, and every kind of value that a file can spoil. The rows are
-- the same each time. By hand:
--
--     psql -v ON_ERROR_STOP=1 -v schema=acme -v scale=1 -f tenant.sql

BEGIN;
CREATE SCHEMA :"schema";
SET LOCAL search_path = :"schema", pg_catalog;
SET LOCAL client_min_messages = warning;
SET LOCAL timezone = 'UTC';
SELECT set_config('factory.scale', :'scale', true);

-- How many rows a table has at this scale.
CREATE OR REPLACE FUNCTION pg_temp.n(base int) RETURNS int LANGUAGE sql STABLE
    AS $$ SELECT greatest(1, ceil(base * current_setting('factory.scale')::numeric))::int $$;

-- Words as people type them, in their own languages.
CREATE OR REPLACE FUNCTION pg_temp.word(i bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT (ARRAY['bracket', 'Schraube M6×20', '轴承座', 'Подшипник', 'ボルト', 'محور', 'Łożysko', 'naïve "quoted" nut',
        'O''Ring', '🚀 nozzle', 'flange, 3/4"', 'tab	inside', 'แหวนรอง', 'ядро; DROP TABLE', 'e' || chr(769) || 'tui', 'back\slash'])[1 + i % 16] $$;

CREATE TYPE lifecycle AS ENUM ('draft', 'in review', 'released', 'obsolete');
CREATE TYPE run_status AS ENUM ('todo', 'in progress', 'complete', 'failed', 'canceled', 'on-hold "QA"');
CREATE TYPE severity AS ENUM ('minor', 'major', 'critical');
CREATE TYPE tolerance AS (nominal numeric, plus numeric, minus numeric);
CREATE DOMAIN part_number AS text CHECK (value ~ '^PN-');

-- Who and where ----------------------------------------------------------------------------------------------

CREATE TABLE locations AS
    SELECT i::bigint AS id, nullif(i / 8, 0)::bigint AS parent_id, 'Hall ' || i / 8 || ' / ' || pg_temp.word(i) AS name,
           CASE i % 3 WHEN 0 THEN '' WHEN 1 THEN NULL ELSE 'Aisle ' || i END AS barcode, i % 5 <> 0 AS available
    FROM generate_series(1, pg_temp.n(400)) i;
CREATE TABLE teams AS SELECT i::int AS id, 'Team ' || pg_temp.word(i) AS name FROM generate_series(1, 12) i;
CREATE TABLE users AS
    SELECT md5('user' || i)::uuid AS id, pg_temp.word(i) || ' ' || i AS name, 'user' || i || '@example.com' AS email,
           CASE WHEN i % 7 = 0 THEN ARRAY[]::text[] ELSE ARRAY['operator', pg_temp.word(i), NULL, ''] END AS roles,
           timestamptz '2024-01-01 00:00+00' + i * interval '1 hour 1.000001 second' AS created_at
    FROM generate_series(1, pg_temp.n(300)) i;
CREATE TABLE team_members AS
    SELECT 1 + i % 12 AS team_id, md5('user' || i)::uuid AS user_id FROM generate_series(1, pg_temp.n(300)) i;
CREATE TABLE suppliers AS
    SELECT i::bigint AS id, pg_temp.word(i) || ' GmbH & Co. KG' AS name, ('10.0.' || i % 256 || '.0/24')::cidr AS network,
           E'Line 1\nLine 2\r\nLine 3 ' || pg_temp.word(i) AS address, i % 11 = 0 AS blocked
    FROM generate_series(1, pg_temp.n(150)) i;
CREATE TABLE units_of_measure (code text PRIMARY KEY, name text NOT NULL, factor numeric(30, 15));
INSERT INTO units_of_measure VALUES ('ea', 'each', 1), ('kg', 'Kilogramm', 1), ('µm', 'Mikrometer', 0.000001), ('°C', 'Grad', NULL), ('Ω', 'Ohm', 1), ('', 'none', 0);

-- What is made -----------------------------------------------------------------------------------------------

CREATE TABLE parts AS
    SELECT i::bigint AS id, ('PN-' || lpad(i::text, 6, '0'))::part_number AS part_number, pg_temp.word(i) || ' ' || i AS description,
           (enum_range(NULL::lifecycle))[1 + i % 4] AS status, (i % 100000) * 0.0137::numeric(20, 6) AS cost,
           ARRAY[pg_temp.word(i), pg_temp.word(i + 1)] AS tags,
           jsonb_build_object('mass', i * 0.25, 'name', pg_temp.word(i), 'nested', jsonb_build_array(i, NULL, '', i % 2 = 0)) AS attributes,
           row(i * 1.5, 0.01, 0.02)::tolerance AS length
    FROM generate_series(1, pg_temp.n(8000)) i;
CREATE TABLE part_revisions AS
    SELECT i::bigint AS id, (1 + i % pg_temp.n(8000))::bigint AS part_id, chr(65 + i % 26) AS revision,
           CASE WHEN i % 4 = 0 THEN NULL ELSE 'Changed because: ' || repeat(pg_temp.word(i) || ' ', i % 20) END AS reason,
           date '2023-01-01' + i % 1000 AS effective
    FROM generate_series(1, pg_temp.n(12000)) i;
CREATE TABLE part_instances (
    id bigint GENERATED ALWAYS AS IDENTITY, part_id bigint NOT NULL, serial_number text, lot text, location_id bigint,
    quantity numeric NOT NULL, made_at timestamptz NOT NULL, scrapped boolean NOT NULL DEFAULT false);
INSERT INTO part_instances (part_id, serial_number, lot, location_id, quantity, made_at, scrapped)
    SELECT 1 + i % pg_temp.n(8000), CASE WHEN i % 3 = 0 THEN NULL ELSE 'SN-' || i END, CASE WHEN i % 3 = 0 THEN 'LOT ' || i / 100 ELSE '' END,
           1 + i % pg_temp.n(400), CASE WHEN i % 10 = 0 THEN i / 7.0 ELSE 1 END,
           timestamptz '2025-01-06 06:00+00' + i * interval '17.123456 seconds', i % 97 = 0
    FROM generate_series(1, pg_temp.n(110000)) i;
CREATE TABLE boms AS
    SELECT i::bigint AS id, i::bigint AS part_id, pg_temp.word(i) || ' assembly' AS name FROM generate_series(1, pg_temp.n(900)) i;
CREATE TABLE bom_items AS
    SELECT i::bigint AS id, (1 + i % pg_temp.n(900))::bigint AS bom_id, (1 + i * 7919::bigint % pg_temp.n(8000))::bigint AS part_id,
           (1 + i % 12)::numeric(12, 4) AS quantity, ARRAY['R' || i, 'C' || i] AS reference_designators
    FROM generate_series(1, pg_temp.n(18000)) i;
CREATE TABLE kits AS SELECT i::bigint AS id, 'Kit ' || i AS name, i % 2 = 0 AS shipped FROM generate_series(1, pg_temp.n(500)) i;
CREATE TABLE kit_items AS
    SELECT (1 + i % pg_temp.n(500))::bigint AS kit_id, i::bigint AS part_instance_id FROM generate_series(1, pg_temp.n(5000)) i;

-- How it is made ---------------------------------------------------------------------------------------------

CREATE TABLE procedures AS
    SELECT i::bigint AS id, 'WI-' || i AS number, '## ' || pg_temp.word(i) || E'\n\n* first\n* "second"\n' || repeat('Lorem ipsum dolor sit amet. ', i % 40) AS markdown,
           xmlelement(name step, xmlattributes(i AS number), pg_temp.word(i)) AS layout
    FROM generate_series(1, pg_temp.n(600)) i;
CREATE TABLE procedure_steps AS
    SELECT i::bigint AS id, (1 + i % pg_temp.n(600))::bigint AS procedure_id, i / 600 AS position, pg_temp.word(i) AS title,
           make_interval(mins => i % 240, secs => i % 60 + 0.5) AS expected
    FROM generate_series(1, pg_temp.n(9000)) i;
CREATE TABLE runs AS
    SELECT i::bigint AS id, (1 + i % pg_temp.n(600))::bigint AS procedure_id, i::bigint AS part_instance_id,
           (enum_range(NULL::run_status))[1 + i % 6] AS status,
           tstzrange(timestamptz '2025-01-06 06:00+00' + i * interval '3 minutes',
                     CASE WHEN i % 6 = 2 THEN timestamptz '2025-01-06 06:00+00' + i * interval '3 minutes' + interval '2 hours' END) AS worked,
           CASE WHEN i % 9 = 0 THEN '' WHEN i % 9 = 1 THEN NULL ELSE pg_temp.word(i) END AS note
    FROM generate_series(1, pg_temp.n(20000)) i;
CREATE TABLE run_steps AS
    SELECT i::bigint AS id, (1 + i / 15)::bigint AS run_id, i % 15 AS position, (enum_range(NULL::run_status))[1 + i % 6] AS status,
           md5('user' || i % 300)::uuid AS completed_by, timestamptz '2025-01-06 06:00+00' + i * interval '12.5 seconds' AS completed_at,
           CASE WHEN i % 50 = 0 THEN pg_temp.word(i) END AS comment
    FROM generate_series(1, pg_temp.n(300000)) i;

-- Partitioned, and one month partitioned again. Some values are no numbers.
CREATE TABLE measurements (
    id bigint NOT NULL, run_step_id bigint NOT NULL, measured_at timestamptz NOT NULL, name text NOT NULL,
    value double precision, exact numeric, unit text, passed boolean
) PARTITION BY RANGE (measured_at);
CREATE TABLE measurements_2025_01 PARTITION OF measurements FOR VALUES FROM ('2025-01-01 00:00+00') TO ('2025-02-01 00:00+00');
CREATE TABLE measurements_2025_02 PARTITION OF measurements FOR VALUES FROM ('2025-02-01 00:00+00') TO ('2025-03-01 00:00+00')
    PARTITION BY HASH (run_step_id);
CREATE TABLE measurements_2025_02_a PARTITION OF measurements_2025_02 FOR VALUES WITH (modulus 2, remainder 0);
CREATE TABLE measurements_2025_02_b PARTITION OF measurements_2025_02 FOR VALUES WITH (modulus 2, remainder 1);
CREATE TABLE measurements_2025_03 PARTITION OF measurements FOR VALUES FROM ('2025-03-01 00:00+00') TO ('2025-04-01 00:00+00');
CREATE TABLE measurements_later PARTITION OF measurements DEFAULT;
INSERT INTO measurements
    SELECT i, 1 + i * 2 / 3, timestamptz '2025-01-06 06:00+00' + i * interval '19.000123 seconds', CASE i % 3 WHEN 0 THEN 'Länge' WHEN 1 THEN 'torque' ELSE '温度' END,
           CASE WHEN i % 5003 = 0 THEN 'NaN' WHEN i % 5003 = 1 THEN '-Infinity' WHEN i % 5003 = 2 THEN NULL ELSE sin(i) * 1e3 END,
           CASE WHEN i % 3 = 0 THEN i / 3.0 END, (ARRAY['µm', 'Nm', '°C'])[1 + i % 3], i % 113 <> 0
    FROM generate_series(1::bigint, pg_temp.n(420000)) i;

CREATE TABLE machines AS
    SELECT i::int AS id, pg_temp.word(i) AS name, ('08:00:2b:01:02:' || lpad(to_hex(i % 256), 2, '0'))::macaddr AS mac,
           ('192.168.1.' || i % 256)::inet AS address, point(i, -i) AS position
    FROM generate_series(1, pg_temp.n(80)) i;
-- A parent that has rows of its own, and its child.
CREATE TABLE machine_events (id bigint NOT NULL, machine_id int NOT NULL, at timestamptz NOT NULL, kind text NOT NULL, payload json);
CREATE TABLE machine_alarms (severity severity NOT NULL, cleared_at timestamptz) INHERITS (machine_events);
INSERT INTO machine_events
    SELECT i, 1 + i % pg_temp.n(80), timestamptz '2025-01-06 06:00+00' + i * interval '90 seconds', 'spindle',
           CASE WHEN i % 4 > 0 THEN json_build_object('rpm', i % 12000, 'load', i % 100 / 100.0) END
    FROM generate_series(1, pg_temp.n(60000)) i;
INSERT INTO machine_alarms
    SELECT i, 1 + i % pg_temp.n(80), timestamptz '2025-01-06 06:00+00' + i * interval '15 minutes', 'alarm', '{"code" :  7 }',
           (enum_range(NULL::severity))[1 + i % 3], CASE WHEN i % 2 = 0 THEN 'infinity' ELSE NULL END::timestamptz
    FROM generate_series(1, pg_temp.n(6000)) i;
CREATE TABLE tools AS SELECT i::int AS id, 'T' || i AS name, (i % 40)::real / 3 AS wear FROM generate_series(1, pg_temp.n(700)) i;
CREATE TABLE calibrations AS
    SELECT i::int AS id, (1 + i % pg_temp.n(700))::int AS tool_id, date '2024-01-01' + i % 700 AS on_day, time '06:00' + i % 600 * interval '1 minute' AS at,
           int4range(i, i + 10) AS certificate_numbers
    FROM generate_series(1, pg_temp.n(3000)) i;

-- What went wrong --------------------------------------------------------------------------------------------

CREATE TABLE issues AS
    SELECT i::bigint AS id, (1 + i % pg_temp.n(20000))::bigint AS run_id, pg_temp.word(i) || ': ' || pg_temp.word(i + 5) AS title,
           E'Found by "' || pg_temp.word(i + 2) || E'",\nsee \\server\\share\n\n' || repeat('. ', i % 30) AS description,
           (enum_range(NULL::severity))[1 + i % 3] AS severity, ARRAY[ARRAY[i, i + 1], ARRAY[i + 2, NULL]] AS matrix,
           to_tsvector('simple', pg_temp.word(i)) AS search
    FROM generate_series(1, pg_temp.n(6000)) i;
CREATE TABLE issue_comments AS
    SELECT i::bigint AS id, (1 + i % pg_temp.n(6000))::bigint AS issue_id, md5('user' || i % 300)::uuid AS author,
           CASE i % 5 WHEN 0 THEN '' WHEN 1 THEN '\.' WHEN 2 THEN '\N' WHEN 3 THEN '"' ELSE pg_temp.word(i) END AS body
    FROM generate_series(1, pg_temp.n(15000)) i;
CREATE TABLE labels AS SELECT i::int AS id, pg_temp.word(i) AS name, lpad(to_hex(i * 4919), 6, '0')::char(8) AS colour FROM generate_series(1, 16) i;
CREATE TABLE issue_labels AS SELECT i::bigint AS issue_id, 1 + i % 16 AS label_id FROM generate_series(1, pg_temp.n(6000)) i;
CREATE TABLE signatures AS
    SELECT i::bigint AS id, i::bigint AS run_id, decode(repeat(md5(i::text), 1 + i % 8), 'hex') AS image, sha256(i::text::bytea) AS digest
    FROM generate_series(1, pg_temp.n(4000)) i;
INSERT INTO signatures VALUES (0, 0, '', '\x00ff5c2e0a0d22'), (-1, 0, NULL, '\x');

-- What is bought ---------------------------------------------------------------------------------------------

CREATE TABLE purchase_orders AS
    SELECT i::bigint AS id, (1 + i % pg_temp.n(150))::bigint AS supplier_id, 'PO-' || i AS number, date '2024-06-01' + i % 500 AS ordered, (ARRAY['EUR', 'USD', 'JPY'])[1 + i % 3]::char(3) AS currency
    FROM generate_series(1, pg_temp.n(3000)) i;
CREATE TABLE purchase_order_lines (
    id bigint NOT NULL, purchase_order_id bigint NOT NULL, part_id bigint NOT NULL, quantity numeric(12, 3) NOT NULL, unit_price numeric(14, 4) NOT NULL,
    total numeric GENERATED ALWAYS AS (quantity * unit_price) STORED, remark varchar(40));
INSERT INTO purchase_order_lines (id, purchase_order_id, part_id, quantity, unit_price, remark)
    SELECT i, 1 + i % pg_temp.n(3000), 1 + i % pg_temp.n(8000), 1 + i % 500 / 3.0, i % 9973 / 7.0, CASE WHEN i % 2 = 0 THEN left(pg_temp.word(i), 40) END
    FROM generate_series(1, pg_temp.n(12000)) i;
CREATE TABLE receipts AS
    SELECT i::bigint AS id, i::bigint AS purchase_order_line_id, timestamp '2025-02-01 00:00' + i * interval '1 hour' AS received
    FROM generate_series(1, pg_temp.n(9000)) i;
CREATE TABLE inventory_movements AS
    SELECT i::bigint AS id, (1 + i % pg_temp.n(110000))::bigint AS part_instance_id, (1 + i % pg_temp.n(400))::bigint AS from_location, (1 + (i + 1) % pg_temp.n(400))::bigint AS to_location,
           1::smallint AS quantity, timestamptz '2025-01-06 06:00+00' + i * interval '21 seconds' AS moved_at
    FROM generate_series(1, pg_temp.n(100000)) i;

-- Files: the rows are inserted by whoever stores the files.
CREATE TABLE file_attachments (
    id uuid PRIMARY KEY, entity_id text, filename text NOT NULL, content_type text, s3_bucket text, s3_key text, s3_etag text, size bigint,
    created_at timestamptz NOT NULL);

-- The corners ------------------------------------------------------------------------------------------------

CREATE TABLE audit_log (
    id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL, actor uuid, address inet, change jsonb NOT NULL);
INSERT INTO audit_log (at, actor, address, change)
    SELECT timestamptz '2025-01-06 06:00+00' + i * interval '29.7 seconds', CASE WHEN i % 8 > 0 THEN md5('user' || i % 300)::uuid END,
           ('2001:db8::' || to_hex(i % 65536))::inet, jsonb_build_object('table', (ARRAY['runs', 'parts', 'issues'])[1 + i % 3], 'old', pg_temp.word(i), 'new', pg_temp.word(i + 1), 'n', i)
    FROM generate_series(1, pg_temp.n(70000)) i;
CREATE TABLE webhooks (id bigint PRIMARY KEY, url text NOT NULL, secret text);
CREATE TABLE "Custom Fields, ""übrige""" ("Key" text PRIMARY KEY, "Value of it" text, "select" int, "a""b" text);
INSERT INTO "Custom Fields, ""übrige""" VALUES
    ('null', NULL, NULL, NULL), ('empty', '', 0, ''), ('space', ' ', 1, '  '), ('end of data', '\.', 2, E'\\.\n'),
    ('newlines', E'a\nb\r\nc\rd', 3, E'\n'), ('quotes', '"', 4, '""""'), ('commas', ',', 5, ',,'), ('backslash', '\', 6, '\N'),
    ('nul in spirit', '\0', 7, '␀'), ('bom', chr(65279) || 'x', 8, chr(8232)), ('astral', '𝄞🏭', 9, '👩‍🔧'), ('long', repeat('0123456789', 20000), 10, repeat('é', 1000));
CREATE TABLE every_type (
    a_bigint bigint, a_bit bit(5), a_varbit varbit, a_bool boolean, a_box box, a_bytea bytea, a_char char(4), a_cidr cidr, a_date date, a_double double precision,
    a_inet inet, an_interval interval, a_json json, a_jsonb jsonb, a_line line, a_macaddr8 macaddr8, a_name name, a_numeric numeric, an_oid oid, a_path path, an_lsn pg_lsn,
    a_polygon polygon, a_real real, a_regclass regclass, a_smallint smallint, a_time time, a_timetz timetz, a_timestamp timestamp, a_timestamptz timestamptz,
    a_tsquery tsquery, a_uuid uuid, a_multirange int4multirange, a_tolerance tolerance[], an_enum lifecycle[]);
INSERT INTO every_type DEFAULT VALUES;
INSERT INTO every_type VALUES (-9223372036854775808, B'10101', B'1', true, '((1,2),(3,4))', '\xdeadbeef', 'ab', '10/8', 'infinity', 0.1 + 0.2::double precision,
    '::1', '-1 year 2 mons -3 days 04:05:06.000007', '{"a" : 1, "a" : 2}', '{"b": [1, {"c": null}]}', '{1,2,3}', '08:00:2b:01:02:03:04:05', 'n', 'NaN', 1, '((1,1),(2,2))', '16/B374D848',
    '((0,0),(1,1),(1,0))', 1e-30, 'pg_catalog.pg_class', -32768, '24:00', '23:59:59.999999+15:59', '4713-01-01 00:00:00 BC', '294276-12-31 23:59:59.999999+00',
    '''fat'' & ( ''rat'' | ''cat'' )', '00000000-0000-0000-0000-000000000000', '{[1,3),[5,)}', ARRAY[row(1, NULL, 0.5)::tolerance, NULL], ARRAY['in review', NULL]::lifecycle[]);
INSERT INTO every_type (a_numeric, a_double, a_timestamptz, a_date, a_jsonb, a_json) VALUES
    (12345678901234567890123456789012345678901234567890.12345678901234567890, 'Infinity', '-infinity', '0001-01-01', 'null', 'null'),
    (0.000000000000000000000000000000000000001, 5e-324, '1900-01-01 00:00:00.123+00', '5874897-12-31', '""', '[]');
CREATE TABLE no_columns ();
INSERT INTO no_columns SELECT FROM generate_series(1, 3);

-- Not data: none of it is in a snapshot.
CREATE VIEW open_issues AS SELECT id, title FROM issues WHERE severity = 'critical';
CREATE MATERIALIZED VIEW parts_by_status AS SELECT status, count(*) FROM parts GROUP BY status;
CREATE FUNCTION label_count() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM labels';

-- Some pages with holes, as after years of work.
DELETE FROM issue_comments WHERE id % 13 = 0;
UPDATE runs SET note = 'reworked' WHERE id % 17 = 0;

ALTER TABLE parts ADD PRIMARY KEY (id);
ALTER TABLE part_instances ADD PRIMARY KEY (id);
ALTER TABLE runs ADD PRIMARY KEY (id);
ALTER TABLE issues ADD PRIMARY KEY (id);
ALTER TABLE issue_labels ADD PRIMARY KEY (issue_id, label_id);
ALTER TABLE bom_items ADD FOREIGN KEY (part_id) REFERENCES parts (id);
COMMIT;
