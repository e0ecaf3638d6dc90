"""A GAN: two networks and two optimizers take turns in every step."""

import torch
from torch import nn


def main():
    generator = nn.Sequential(
        nn.ConvTranspose2d(100, 256, 4),
        nn.BatchNorm2d(256),
        nn.ReLU(),
        nn.ConvTranspose2d(256, 128, 4, 2, 1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.ConvTranspose2d(128, 3, 4, 2, 1),
        nn.Tanh(),
    ).cuda()
    critic = nn.Sequential(
        nn.Conv2d(3, 128, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(128, 256, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(256, 1, 4),
        nn.Flatten(),
    ).cuda()
    critic_optimizer = torch.optim.Adam(critic.parameters(), 2e-4, betas=(0.5, 0.999))
    optimizer = torch.optim.Adam(generator.parameters(), 2e-4, betas=(0.5, 0.999))
    for step in range(10):
        real = torch.rand(64, 3, 16, 16, device="cuda")
        fake = generator(torch.randn(64, 100, 1, 1, device="cuda"))

        critic_loss = (
            nn.functional.softplus(-critic(real)).mean()
            + nn.functional.softplus(critic(fake.detach())).mean()
        )
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()

        loss = nn.functional.softplus(-critic(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print("step", step, critic_loss.item(), loss.item(), flush=True)


if __name__ == "__main__":
    main()
