ALTER TABLE releases ADD COLUMN tenant VARCHAR(64) REFERENCES tenants (id);

ALTER TABLE releases ADD COLUMN retired_at BIGINT;

CREATE TABLE agreements (
	name VARCHAR(128) NOT NULL,
	release VARCHAR(64) NOT NULL,
	shadow VARCHAR(64) NOT NULL,
	compared BIGINT NOT NULL,
	agreed BIGINT NOT NULL,
	failed BIGINT NOT NULL,
	dropped BIGINT NOT NULL,
	release_ns BIGINT NOT NULL,
	shadow_ns BIGINT NOT NULL,
	furthest BIGINT NOT NULL,
	changed_at BIGINT NOT NULL,
	PRIMARY KEY (name, release, shadow),
	FOREIGN KEY(release) REFERENCES releases (digest),
	FOREIGN KEY(shadow) REFERENCES releases (digest)
);

CREATE TABLE rollout_changes (
	id VARCHAR(26) NOT NULL,
	name VARCHAR(128) NOT NULL,
	kind VARCHAR(8) NOT NULL,
	release VARCHAR(64),
	share INTEGER NOT NULL,
	sticky VARCHAR(8) NOT NULL,
	tenants TEXT NOT NULL,
	version BIGINT NOT NULL,
	reason TEXT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (name, kind, version),
	FOREIGN KEY(release) REFERENCES releases (digest)
);

CREATE TABLE rollouts (
	name VARCHAR(128) NOT NULL,
	kind VARCHAR(8) NOT NULL,
	release VARCHAR(64),
	share INTEGER NOT NULL,
	sticky VARCHAR(8) NOT NULL,
	tenants TEXT NOT NULL,
	version BIGINT NOT NULL,
	PRIMARY KEY (name, kind),
	CONSTRAINT share_is_a_share CHECK (share between 0 and 10000),
	FOREIGN KEY(release) REFERENCES releases (digest)
);

CREATE TRIGGER rollout_changes_no_update BEFORE UPDATE ON rollout_changes
BEGIN SELECT RAISE(ABORT, 'rollout_changes is append-only'); END;

CREATE TRIGGER rollout_changes_no_delete BEFORE DELETE ON rollout_changes
BEGIN SELECT RAISE(ABORT, 'rollout_changes is append-only'); END;
